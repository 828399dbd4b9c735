"""What a model is: backbones, heads, freezing."""
