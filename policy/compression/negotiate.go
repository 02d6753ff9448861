package compression

import (
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// choose answers the coding that the client likes best, of equals the one that is
// configured first; nil for the body as it is.
func choose(codings []*coding, f *exchange.Fields) *coding {
	var best *coding
	var most float64
	for _, c := range codings {
		if q := quality(f, c.name); q > most {
			best, most = c, q
		}
	}
	// Who likes the body as it is better than any coding gets it so.
	if best != nil && weight(f, "identity") > most {
		return nil
	}
	return best
}

// quality is the weight of a coding, that of "*" where it is not named.
func quality(f *exchange.Fields, name string) float64 {
	if q := weight(f, name); q >= 0 {
		return q
	}
	return max(weight(f, "*"), 0)
}

// weight is what a client says of a coding, -1 for nothing. A weight that is none
// counts as a refusal.
func weight(f *exchange.Fields, name string) float64 {
	for v := range f.Values("Accept-Encoding") {
		for m := range strings.SplitSeq(v, ",") {
			coding, params, _ := strings.Cut(m, ";")
			coding = strings.TrimSpace(coding)
			if !exchange.EqualFold(coding, name) && !(name == "gzip" && exchange.EqualFold(coding, "x-gzip")) {
				continue
			}
			q, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(params, " ", "")), "q=")
			if !ok {
				return 1
			}
			n, err := strconv.ParseFloat(q, 64)
			if err != nil || !(n >= 0 && n <= 1) {
				return 0
			}
			return n
		}
	}
	return -1
}
