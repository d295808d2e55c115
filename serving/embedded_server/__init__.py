"""A server with TensorFlow Serving's gRPC API in Python: for development, tests and small loads.

Production runs TensorFlow Serving itself, on the same model folders and behind the same client.
"""
