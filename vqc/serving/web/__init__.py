"""What is particular to HTTP: routes, problems, limits of bodies, who may call."""
