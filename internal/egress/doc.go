// Package egress says what a machine may reach of the world outside it: rules as users write them,
// policies made of them, and the decision on one name, address or connection.
//
// It does no input or output and knows no machine: the networks ask it for every connection that a
// guest makes, and carry out what it says. What a rule does not allow is refused, except under the
// preset "unrestricted". Names are compared in one canonical form only (Name), so that what was
// matched is what is looked up and dialled.
package egress
