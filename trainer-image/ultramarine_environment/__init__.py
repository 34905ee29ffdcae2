"""Build of environments: packages of a user's requirements, installed in their base image and stored as an archive."""
