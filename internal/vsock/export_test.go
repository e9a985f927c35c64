package vsock

// Handshake is the exchange that DialUnix makes on a connection.
var Handshake = connect
