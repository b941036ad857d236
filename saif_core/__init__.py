"""SAIF's engine: which latents of an SAE carry an instruction, and what turning them up does.

prompt pairs → residual stream → latent activations → latent scores → steering vector → generation

``saif_core.pipeline`` is that flow in one function; start reading there.
"""
