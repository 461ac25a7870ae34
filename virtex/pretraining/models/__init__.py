"""Networks: backbones, textual heads, and the models that pretrain both."""
