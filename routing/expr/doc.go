// Package expr is the language of route expressions: what the format's routers
// understand in a route's field expression.
//
//	http.host == "api.example.com" && (http.path ^= "/v1" || http.headers.x_beta == "on")
//
// [Parse] reads a text into an [Expr], a tree whose fields, operators and values
// are resolved, so that a request is never compared with names. [Expr.Match] asks
// it of a [Request]; [Expr.Hosts] and [Expr.Paths] say what every request that
// matches has in common, by which a router can find the few expressions that are
// worth asking.
//
// Regular expressions are Go's, which take time in proportion to the text. Length
// and depth of an expression are bounded.
package expr
