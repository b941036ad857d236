"""Where people meet the engine: pages, command line, settings; no tensor maths and no SQL."""
