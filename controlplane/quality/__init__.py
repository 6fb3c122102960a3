"""The picture gate: do two versions of a model colour the same photos alike, and is one of them broken?

Full-reference scores (PSNR, SSIM, distance to the true colours) reward grey, so none is used. What decides is sanity
(a bug shows in any picture) and the difference between the two versions, which a person may want or not.
"""
