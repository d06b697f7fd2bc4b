//! Administration: organisations, shops, rules, tokens; asked by the command line, directly or through the control socket.
