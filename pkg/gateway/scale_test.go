package gateway_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/postgrestest"
)

// Two gateways on the primary and one on a standby serve one set of clients,
// which move from one to another as behind a balancer, live and by polls, while
// events are written: each client gets each event once.
func TestGatewaysAndAStandbyShareClients(t *testing.T) {
	t.Parallel()
	primary := postgrestest.Cluster(t, nil)
	migrate(t, primary.URL())
	standby := postgrestest.Standby(t, primary)
	gateways := []*server{over(t, primary.URL()), over(t, primary.URL()), over(t, standby.URL())}
	db := postgrestest.Connect(t, primary.URL())
	exec(t, db, insert, "first")
	start := gateways[0].poll("").Cursor
	const events, clients, each = 120, 6, 25 // a client moves on after so many
	var writing, reading sync.WaitGroup
	writing.Go(func() {
		for i := range events {
			if _, err := db.Exec(context.Background(), insert, fmt.Sprint(i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	deadline := time.Now().Add(4 * patience)
	for n := range clients {
		reading.Go(func() {
			seen, cursor := map[string]bool{}, start
			take := func(rows []row) {
				for _, r := range rows {
					if seen[r.Spec] {
						t.Errorf("client %d: %s twice", n, r.Spec)
					}
					seen[r.Spec] = true
				}
			}
			for turn := n; len(seen) < events; turn++ {
				if time.Now().After(deadline) {
					t.Errorf("client %d has %d of %d events", n, len(seen), events)
					return
				}
				d := gateways[turn%len(gateways)]
				if turn%4 == 3 {
					// A standby that is behind says so, and is asked again.
					if status, a, _ := d.do("GET", "/api/status?since="+cursor, ""); status == 200 {
						take(a.Events)
						cursor = a.Cursor
					}
					continue
				}
				conn, _, err := websocket.DefaultDialer.Dial("ws://"+d.address+"/ws?since="+cursor, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for until := min(len(seen)+each, events); len(seen) < until; {
					var p push
					conn.SetReadDeadline(time.Now().Add(patience))
					if err := conn.ReadJSON(&p); err != nil {
						break // closed with a reason: go on elsewhere
					}
					if p.Expired {
						t.Errorf("client %d: the cursor expired", n)
					}
					take(p.Data.Events)
					cursor = p.Cursor
				}
				conn.Close()
			}
		})
	}
	writing.Wait()
	reading.Wait()
}
