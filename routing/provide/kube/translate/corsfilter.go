package translate

import (
	"regexp"
	"slices"
	"strings"
)

// noOrigin is an expression that no origin matches. Beside others it has the plugin look
// at who asks, also where there is one origin alone.
const noOrigin = `[^\s\S]`

// cors is a CORS filter as the plugin of that name has it. What a filter does not list is
// not allowed, while the plugin would allow everything.
func cors(f *CORSFilter) map[string]any {
	v := map[string]any{"credentials": f.AllowCredentials, "max_age": f.MaxAge}
	if f.MaxAge == 0 {
		v["max_age"] = 5
	}
	if !slices.Contains(f.AllowOrigins, "*") {
		origins := []string{noOrigin}
		for _, o := range f.AllowOrigins {
			if strings.Contains(o, "*") {
				o = strings.ReplaceAll(regexp.QuoteMeta(o), `\*`, `[A-Za-z0-9.-]*`)
			}
			origins = append(origins, o)
		}
		v["origins"] = origins
	}
	switch {
	case slices.Contains(f.AllowMethods, "*"):
	case len(f.AllowMethods) > 0:
		v["methods"] = f.AllowMethods
	default:
		v["methods"] = []string{"GET", "HEAD", "POST"} // which need no permission
	}
	switch {
	case slices.Contains(f.AllowHeaders, "*"):
	case len(f.AllowHeaders) > 0:
		v["headers"] = f.AllowHeaders
	default:
		v["headers"] = []string{"accept", "accept-language", "content-language"} // likewise
	}
	if len(f.ExposeHeaders) > 0 {
		v["exposed_headers"] = f.ExposeHeaders
	}
	return v
}
