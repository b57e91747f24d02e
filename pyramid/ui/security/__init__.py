"""Who may come in and what may leave: accounts, logging in, and the guard in front of every address.

Only `app.py`, which starts the server, enters here. Nothing here knows what the page looks like.
"""
