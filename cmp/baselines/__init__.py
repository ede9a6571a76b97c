"""Other systems that learn from video or generate pictures, beside CMP: the same trainer, clips and warp.

One file a system; what two of them share stands in `conv_lstm`, `gradient_difference` and `gaussian_kl`.
"""
