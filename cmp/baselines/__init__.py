"""Other systems that learn from video or generate images, trained by the same commands as CMP.

Each system is one file: `local_motion`, `video_autoencoder`, `seq2seq`, `skip_autoencoder`, `multi_scale`,
`visual_dynamics`, `video_pixel_network`, `draw`, `vae` and `frame_vae`. Shared parts are separate files:

- the interface between a system and the trainer: `baseline`, `evaluation`;
- the image encoder that can be exported: `image_encoder`;
- frame prediction: `frame_prediction`, `prediction_metrics`, `extrapolation`;
- layers and losses: `conv_lstm`, `cross_convolution`, `glimpse`, `masked_convolution`, `pixel_decoder`,
  `gaussian_kl`, `gradient_difference`; and `pixel_frequencies`, a comparison without a network;
- `shape_motion`: what predicted frames of a moving shape show;
- the images that a run writes during validation: `drawing`, one file per kind of system.

No other package imports this one; `tools/` and configs do. docs/baselines.md compares the systems.
"""
