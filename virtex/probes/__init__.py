"""How good features are: classifiers on frozen backbones and the metrics they are judged by."""
