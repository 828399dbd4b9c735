"""How a model learns: features, probe, schedule, sample order, loop."""
