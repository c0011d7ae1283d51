package coordinator

import "fmt"

var stateNames = map[State]string{
	Starting: "starting", WaitingForManifest: "waiting for a manifest", Serving: "serving", Stopping: "stopping",
}

// String returns the state in words.
func (s State) String() string { return stateNames[s] }

// after lists the states that may follow each state.
var after = map[State][]State{
	Starting:           {WaitingForManifest, Serving, Stopping},
	WaitingForManifest: {Serving, Stopping},
	Serving:            {Stopping},
	Stopping:           nil,
}

// next is the one transition function: it returns to if that may follow s.
func (s State) next(to State) (State, error) {
	if s == to {
		return s, nil
	}
	for _, t := range after[s] {
		if t == to {
			return to, nil
		}
	}
	return s, fmt.Errorf("a coordinator that is %s cannot be %s", s, to)
}

// become moves the coordinator to a state, if that may follow the one it is in.
func (c *Coordinator) become(to State) error {
	c.stateMu.Lock()
	defer c.stateMu.Unlock()
	s, err := State(c.state.Load()).next(to)
	if err == nil {
		c.state.Store(int32(s))
	}
	return err
}

// State returns where the coordinator stands.
func (c *Coordinator) State() State { return State(c.state.Load()) }
