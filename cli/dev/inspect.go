package dev

// WorkDir is the folder outside of Dir that holds the marbles' runtime folders
// with their sockets; Close removes it.
func (d *Deployment) WorkDir() string { return d.work }

// StateDir holds the coordinator's state.
func (d *Deployment) StateDir() string { return d.file("state") }

// PlatformSocket is where the simulation platform answers.
func (d *Deployment) PlatformSocket() string { return d.socket() }

// SecretFile is the one place outside of memory where the shop's cart key lies:
// rendered for the cart's program, gone when its marble ends.
func (d *Deployment) SecretFile() string { return d.file("cart.key") }

// CoordinatorCommand returns the program and the arguments that
// SpawnCoordinator runs.
func (d *Deployment) CoordinatorCommand() (path string, args []string) {
	return d.coordBinary(), append(append([]string{"run"}, d.teeArgs()...),
		"--client-addr", d.Client, "--mesh-addr", d.Mesh, "--metrics-addr", d.Metrics, "--pccs", d.pccs)
}
