/** Bun connects over a descriptor that is a socket already, with an options type for it; only `connect` itself is not declared so. */
import "bun";

declare module "bun" {
  function connect<Data = undefined>(options: FdSocketOptions<Data>): Promise<Socket<Data>>;
}
