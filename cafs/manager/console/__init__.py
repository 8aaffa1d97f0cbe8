"""The web console: pages made with NiceGUI, for which REST is the only source, asked as whoever is signed in.

So what somebody may see and do is decided in one place. Only this package meets NiceGUI.
"""
