"""AnimeGANv2's generator in torch: the network, its checkpoints, and its export; importing this alone needs no torch.

The architecture is that of AnimeGAN (Chen, Liu, Chen: "AnimeGAN: A Novel Lightweight GAN for Photo Animation", ISICA
2019) in its second version, where every norm spans the whole picture. What is here was written anew from that, under
this repository's Apache-2.0. Names of submodules are those of the checkpoints published for torch
(bryandlee/animegan2-pytorch), so that their tensors load by name.

No weights are shipped. The original's (TachibanaYoshino/AnimeGANv2) and what is converted from them are for
non-commercial use; those that others trained have terms of their own. Nothing is refused here on that account: whoever
serves a file decides whether its terms fit.
"""
