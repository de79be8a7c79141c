/** Sends one message through the daemon whose socket it is told, and prints the answer: the least that a client can do. */
const [, , unix = ""] = process.argv;
const response = await fetch("http://localhost/v1/send", {
  unix,
  method: "POST",
  body: JSON.stringify({ to: "bob", message: "from a bare request" }),
});
console.log(await response.text());
