"""What the proxy decides: requests read strictly, routes, ranges, conditions, addresses. Pure."""
