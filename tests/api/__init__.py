"""The HTTP edge: what people send, what they get back, and what nobody must ever see."""
