"""Text-prompted audio editing with latent diffusion: the code behind the notebooks."""
