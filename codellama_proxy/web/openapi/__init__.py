"""`/openapi.json`: the HTTP interface, described from the routes, the errors and the parameters in force."""
