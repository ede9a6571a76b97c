"""Other systems that learn from video or generate pictures, beside CMP: the same trainer, clips and warp.

One file a system. What several share has files of its own: what the trainer asks of each (`baseline`, `evaluation`),
the encoder that is taken out (`image_encoder`), what frame predictors are (`frame_prediction`) and are judged by
(`prediction_metrics`, `extrapolation`), layers and losses (`conv_lstm`, `gaussian_kl`, `gradient_difference`), and
sheets of pictures (`sheet`).
"""
