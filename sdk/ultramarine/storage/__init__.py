"""Files between this machine and the object storage: data, code, and what runs have stored."""
