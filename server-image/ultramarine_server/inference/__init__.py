"""From a question to its answer: checks, limits, batches, and the threads that compute."""
