"""Plain records that pass between the layers, one file for each thing that flows."""
