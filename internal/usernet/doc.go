// Package usernet is a machine's network without root: an Ethernet segment with the guest on it and a
// gateway, which is this process. What the guest sends to the gateway's resolver, and what it sends
// through the gateway, goes to a Carrier as connections and datagrams; raw packets never leave.
//
// It holds the guest to its own addresses, and does not decide what the guest may reach (package proxy
// does, with package egress). Everything on the segment is hostile.
package usernet
