"""Canary rollouts."""

# Phases of status.rollout.
WAITING, PROGRESSING, PAUSED, ROLLED_BACK, PROMOTED = "Waiting", "Progressing", "Paused", "RolledBack", "Promoted"
