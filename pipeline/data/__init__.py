"""From archive to tensor: fetching, drawing, auditing, splitting, storing and loading photos."""
