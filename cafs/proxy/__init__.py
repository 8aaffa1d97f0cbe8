"""How clients come in: the HTTP proxy and the mirrors of registries (trio), above any ``Distributor``."""
