"""One page per step of the flow; Streamlit runs each file as a script."""
