"""Visual backbones, textual heads, and the pretraining models composed of them."""
