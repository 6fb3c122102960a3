"""DDColor in torch: the network, its checkpoints, and its export; importing this package alone needs no torch.

The architecture is that of "DDColor: Towards Photo-Realistic Image Colorization via Dual Decoders" (Kang et al., ICCV
2023), whose code (piddnad/DDColor) is under Apache-2.0; its encoder is ConvNeXt (Liu et al., CVPR 2022; MIT), its
colour decoder follows Mask2Former (Cheng et al., CVPR 2022; MIT). What is here was written anew from that architecture
and under this repository's Apache-2.0. Names of submodules are those of the official checkpoints, so that their
tensors load by name.

Decision: our own module instead of spandrel or the official package, which need torchvision, timm or basicsr, accept
checkpoints that do not fit (`strict=False`), or take one picture at a time. Consequence: a change of the official
layout is refused by name here, and has to be followed by hand.
"""
