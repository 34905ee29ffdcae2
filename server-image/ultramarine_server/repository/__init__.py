"""The models of a server: a single model, or a pool whose models are loaded on demand."""
