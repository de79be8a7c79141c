/** Prints a word and ends. */
console.log("hello");
