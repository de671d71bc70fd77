"""The network as a Pyro model: channel graph, sites, priors, likelihoods, decisions, surgery."""
