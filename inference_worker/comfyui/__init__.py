"""Drives a running ComfyUI over HTTP and a WebSocket, as another program: none of it is imported.

ComfyUI is GPL-3 and stays a process of its own. What is relied on is what 0.3.64 was seen to do; newer releases may add
fields and events, which are ignored.
"""
