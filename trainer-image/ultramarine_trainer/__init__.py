"""The trainer image's entry point: inputs, the user's command, outputs, and an honest verdict."""
