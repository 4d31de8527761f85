"""The policy pack: rules as plain functions over what a resource is asked to be."""
