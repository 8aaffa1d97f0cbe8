"""Downloads to local files: ``cafs get``, and fsspec's ``cafs://`` (trio, above any ``Distributor``)."""
