package upstream

import (
	"strconv"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// talks says whether a request is one of gRPC, whose both sides may talk at once: its
// body is never held back.
func (cl *Cluster) talks(r *exchange.Request) bool {
	const kind = "application/grpc"
	ct := r.Fields.Get("Content-Type")
	return cl.grpc || cl.proto != "" && len(ct) >= len(kind) && exchange.EqualFold(ct[:len(kind)], kind)
}

// expired says whether the target gave the call up because the client's own deadline
// has passed. Servers of gRPC then reset the stream without a word; the client, whose
// clock runs a little later, must not take that for a broken target.
func (k *call) expired() bool {
	st := k.stream
	st.c.mu.Lock()
	cancelled := st.cancelled
	st.c.mu.Unlock()
	if !cancelled || !k.cluster.talks(&k.x.Request) {
		return false
	}
	limit, ok := grpcTimeout(k.x.Request.Fields.Get("Grpc-Timeout"))
	return ok && time.Since(k.x.UpstreamStart) >= limit
}

// lateStatus is how gRPC says that a deadline has passed.
func lateStatus() []exchange.Field {
	return []exchange.Field{{Name: "grpc-status", Value: "4"}, {Name: "grpc-message", Value: "the deadline has passed"}}
}

// grpcTimeout reads a timeout in gRPC's form: at most eight digits and a unit.
func grpcTimeout(v string) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(v[:len(v)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1}
	unit, ok := units[v[len(v)-1]]
	if int64(n) > int64(1<<62)/max(int64(unit), 1) {
		return 1 << 62, ok
	}
	return time.Duration(n) * unit, ok
}
