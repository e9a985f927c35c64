// Package proxy carries what a guest sends to the world outside: its connections, its datagrams and its
// questions to the resolver, as far as an egress policy allows, and says of what it does not carry
// why not. A guest's name is looked up and dialled here, and never by an address that the guest
// gives for it.
//
// It does not know how a guest's packets get here (the networks hand it flows and questions), and
// decides nothing itself (package egress does). Everything that comes from the guest is hostile.
package proxy
