"""What TFX's trainers call: data in, mim_keras, export out."""
