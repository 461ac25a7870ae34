"""A small vision transformer of timm, its file as DINO publishes it, and its features by hand."""

import torch
from timm.models.vision_transformer import VisionTransformer

from virtex.checkpoints import load_backbone

WIDTH, DEPTH, SIZE = 192, 4, 32
FORMAT = "dino_vit"
FEATURES = {"cls": WIDTH, "avg": WIDTH, "cls+avg": 2 * WIDTH, "last4-cls": 4 * WIDTH}
SMALL_IMAGES = ("DATA.IMAGE_RESIZE_SIZE", 36, "DATA.IMAGE_CROP_SIZE", SIZE)


def build_vit(classes=0, **options):
    """Return timm's network with random values in all of its parameters."""
    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VisionTransformer(**sizes, num_classes=classes, **options)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval()


def write_vit(folder):
    """Write the file and return its path."""
    path = folder / "dino_vit.pth"
    torch.save(build_vit().state_dict(), path)
    return path


def load_vit(folder):
    return load_backbone(write_vit(folder), FORMAT)


@torch.no_grad()
def features_by_hand(network, images):
    """Return the features of normalized images by the name of their representation."""
    final = network.forward_features(images)
    cls, avg = final[:, 0], final[:, 1:].mean(dim=1)
    tokens, class_tokens = network._pos_embed(network.patch_embed(images)), []
    for block in network.blocks:
        tokens = block(tokens)
        class_tokens.append(network.norm(tokens)[:, 0])
    return {
        "cls": cls,
        "avg": avg,
        "cls+avg": torch.cat([cls, avg], dim=1),
        "last4-cls": torch.cat(class_tokens[-4:], dim=1),
    }
