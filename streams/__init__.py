"""How records flow: the topology, the engines that feed stages, consumers and assignment."""
