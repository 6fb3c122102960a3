"""The web pages: plain files that a browser asks for without a key; what they show, they ask the API for, with one."""
