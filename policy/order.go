package policy

// Order is the one place that says in which order plugins run: the first runs
// first, in every phase, but where orderings of a document move one in the access
// phase (reorder). It names every plugin that the format knows, so that a
// new one only needs its Kind; a plugin has no priority number of its own.
//
// Two rules shape it: what names the client runs before what judges or counts
// it, and what limits runs before what changes or answers.
var Order = []string{
	"pre-function",
	"correlation-id",
	"zipkin",
	"bot-detection",
	"cors",
	"session",
	"acme",
	"jwt",
	"oauth2",
	"key-auth",
	"ldap-auth",
	"basic-auth",
	"hmac-auth",
	"grpc-gateway",
	"ip-restriction",
	"request-size-limiting",
	"acl",
	"rate-limiting",
	"response-ratelimiting",
	"request-transformer",
	"response-transformer",
	"route-filters", // what it changes is what goes to the service
	"redirect",
	"ai-request-transformer",
	"ai-prompt-template",
	"ai-prompt-decorator",
	"ai-prompt-guard",
	"ai-proxy",
	"ai-response-transformer",
	"standard-webhooks",
	"aws-lambda",
	"azure-functions",
	"proxy-cache",
	"compression", // after all that changes bodies
	"opentelemetry",
	"prometheus",
	"http-log",
	"statsd",
	"datadog",
	"file-log",
	"udp-log",
	"tcp-log",
	"loggly",
	"syslog",
	"grpc-web",
	"request-termination",
	"post-function",
}
