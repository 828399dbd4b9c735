"""Results that others can hold against their own: reported accuracy, its reproduction, and experiments side by side."""
